"""Reading and writing of checkpoint folders, one module a format; nothing else reads or writes weights."""
