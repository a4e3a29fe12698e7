"""Nine defences to break, and a judge: `from advutils.exercises import arena`."""
