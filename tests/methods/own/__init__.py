"""Methods of a user's own, as they stand outside the package: a module and a YAML file each."""
