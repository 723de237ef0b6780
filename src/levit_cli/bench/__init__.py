"""``levit bench``: speed on this machine, beside what the paper states."""
