# Import the package, and check configuration files as they are written.
# Needs: package_folder, refuse.
# Makes: check_config_files, MISSING_PACKAGE.
import sys

sys.path.insert(0, str(package_folder()))

MISSING_PACKAGE = (
    "{}. Run Snakemake in an environment that has torch and the packages of "
    "requirements/run.txt: see docs/environments.md."
)

from tessera_flow.config import yaml_file
from tessera_flow.errors import ConfigError


def check_config_files(paths):
    """Refuse keys that occur twice and values that YAML changes."""
    try:
        yaml_file.check_config_files(paths)
    except ConfigError as error:
        refuse(error)
