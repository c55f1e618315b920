"""The pool of workers: memory that they share with the main process, and who gives them images."""
