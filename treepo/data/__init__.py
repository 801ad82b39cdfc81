"""Problems from files, folders and the hub."""
