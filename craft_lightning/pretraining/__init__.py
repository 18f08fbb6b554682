"""Making the frozen parts: a tower with its codebook (stage 0), and language models that read it (stages 1 and 2).

The paper's appendix 8 with a stage 0 in front, for families that start from nothing. Nothing here runs while a method
trains, and no codebook moves outside this package.
"""
