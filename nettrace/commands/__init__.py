"""The commands, one file each; the command line imports a file only when its command is called."""
