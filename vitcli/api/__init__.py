"""The functions of the commands for Python, on images in files and in memory."""
