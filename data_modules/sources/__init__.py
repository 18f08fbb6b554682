"""Where images and questions come from: drawn twins, files on disk, tables of the hub."""
