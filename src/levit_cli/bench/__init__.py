"""``levit bench``: measure speed on this machine and compare it with the paper's figures."""
