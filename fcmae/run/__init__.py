"""What any run needs, whatever it trains: its config, directory, processes and checkpoints."""
