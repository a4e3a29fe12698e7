"""The command line: `python -m advutils train | evaluate | attack | results`, alone, or under `torchrun` or
`accelerate launch` in many processes.
"""

from advutils.cli import main

if __name__ == "__main__":
    main()
