"""Tables and pictures of records: nothing but the files of records is read."""
