"""Sort images into a folder per label, by the results of ``levit predict``. ``run`` is the command."""
