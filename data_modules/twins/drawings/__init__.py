"""What the ten synthetic datasets look like, as code that draws: data, not part of the program's logic.

Nothing here needs to be read to understand or extend the project. :data:`data_modules.twins.TWINS` names the ten
classes, one of each ``draw_NAME.py``; ``canvas``, ``cells``, ``font``, ``diagrams`` and ``iconqa_words`` are shared by
them. A changed pixel or word is another world: ``world_hash`` changes, and results of before cannot be compared.
"""
