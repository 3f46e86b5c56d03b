"""The mount driver: one file system core, with Azure Blob and SMB volumes behind it."""
