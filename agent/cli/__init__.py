"""The command line `batchai`, one file a command group; it mirrors `az batchai`."""
