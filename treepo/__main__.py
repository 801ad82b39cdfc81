"""`python -m treepo`."""

import sys

from treepo.utils.imports import drop_current_folder

# Python puts the current folder first on the path, and whatever lies there would be imported in place of packages.
drop_current_folder()

from treepo.cli.main import main  # noqa: E402

sys.exit(main())
