"""Units, configs, errors, random draws and run folders: what every room shares."""
