"""What a learner never opens: checks of arguments, files, several processes, the fusion of layers."""
