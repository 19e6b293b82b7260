"""What every package needs: errors, files, locks, settings, random numbers, the machine, the console."""
