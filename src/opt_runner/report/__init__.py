"""Tables and pictures, made only from the files of records."""
