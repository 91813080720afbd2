"""Reading the tables of images that people have."""
