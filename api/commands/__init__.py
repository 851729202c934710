"""What a person types: the command line, `import` and `show`."""
