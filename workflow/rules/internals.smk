# Parts of Snakemake used here that are not in its documentation, checked on Snakemake 9.27.1.
# Each has one function; the tests that would notice a change are in tests/dag and tests/e2e.
# What concerns its locks and resources is in internals_locks.smk and internals_resources.smk.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.settings.enums import Quietness


def configfile_given():
    """Whether --configfile was used."""
    return bool(workflow.overwrite_configfiles)


def config_files():
    """Return the configuration files of this run."""
    return list(workflow.configfiles)


def config_values():
    """Return the entries `name=value` of --config, as they were written."""
    return list(workflow.config_settings.config_args or [])


def runs_one_job():
    """Whether this is the process of one job, which a running Snakemake started."""
    return not workflow.is_main_process


def show_warning(text):
    """Show a warning on the terminal and in Snakemake's own log."""
    logger.warning(f"WARNING: {text}")


def jobs_to_run():
    """Return the jobs of this run, once the job graph is complete."""
    return list(workflow.dag.needrun_jobs())


def forced():
    """Whether --force or --forceall was used."""
    return workflow.dag_settings.forcetargets or workflow.dag_settings.forceall


def is_dry_run():
    """Whether no job is executed (-n)."""
    return workflow.dryrun


def writes_nothing(names):
    """Whether all targets of this run are among these names."""
    targets = set(workflow.dag_settings.targets)
    return bool(targets) and targets <= names


def make_again(paths):
    """Run the jobs that write these files, as --forcerun does, where they are part of a run.

    `paths` is a function that is called before the job graph is built. It gets a function that returns
    whether Snakemake has a record of a file.
    """
    prepare = workflow._prepare_dag

    def prepare_with_forced(*arguments, **options):
        prepare(*arguments, **options)
        if "shadow_prefix" in options:  # not for --unlock and the like
            metadata = workflow.persistence.metadata
            workflow.dag.forcefiles.update(
                paths(lambda path: metadata(IOFile(path)) is not None)
            )

    workflow._prepare_dag = prepare_with_forced


def refuse(error):
    """End with one message, also under --quiet all. An exception would show lines of rules, too."""
    silent = Quietness.ALL in (workflow.output_settings.quiet or ())
    print(error, file=sys.stderr) if silent else logger.error(str(error))
    sys.exit(1)


def package_folder():
    """Return the folder of the package's sources, which are used without being installed. It
    does not exist if this workflow is in the installed package.

    If the workflow is on a git host, Snakemake fetches only the files that it is asked for, and
    keeps them in a cache, each at its relative path.
    """
    here = str(workflow.current_basedir)
    if here.startswith("git+file:"):
        raise WorkflowError(
            "This workflow cannot be read from a commit of a local clone (gitfile, git+file): "
            "use the path of workflow/Snakefile in a clone, or github(...) or gitlab(...)."
        )
    if workflow.current_basedir.is_local:
        return Path(here).parents[1] / "src"
    for name in Path(workflow.source_path("../sources.txt")).read_text().split():
        workflow.source_path(f"../../{name}")
    return Path(workflow.source_path("../scripts/adaptor.py")).parents[2] / "src"
