"""Where images and questions come from: synthetic datasets, files on disk, tables of the hub."""
