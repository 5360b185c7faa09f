# Reads and checks the configuration, asks the domain package for the blocks, and says what
# wildcards may be.
# Needs: config.
# Makes: CONFIG, RUN (which files each job reads and makes), SETTINGS (what decides its result),
# SCHEDULE (when, where and with how much it runs).
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError


def package_folder():
    """The package's sources beside this workflow, which are used without being installed.

    Of a workflow on a git host, Snakemake fetches only the files that it is asked for; it keeps
    them in a cache, each in its place.
    """
    here = str(workflow.current_basedir)
    if here.startswith("git+file:"):
        raise WorkflowError(
            "This workflow cannot be read from a commit of a local clone (gitfile, git+file): "
            "give the path of workflow/Snakefile in a clone, or github(...) or gitlab(...)."
        )
    if workflow.current_basedir.is_local:
        return Path(here).parents[1] / "src"
    for name in Path(workflow.source_path("../sources.txt")).read_text().split():
        workflow.source_path(f"../../{name}")
    return Path(workflow.source_path("../scripts/adaptor.py")).parents[2] / "src"


sys.path.insert(0, str(package_folder()))

try:
    from tessera_flow.jobs.in_flight import EVERYTHING
    from tessera_flow.config.configuration import load_config
    from tessera_flow.errors import TesseraFlowError
    from tessera_flow.jobs.params import JobParams
    from tessera_flow.jobs.files import RunFiles
    from tessera_flow.jobs.paths import ANY_BLOCK, SENSORS
    from tessera_flow.jobs.slurm_queue import refuse_orphans
    from tessera_flow.jobs.preflight import drop_old_skip_lists, refuse_other_settings
    from tessera_flow.jobs.schedule import Schedule
    from tessera_flow.jobs.status import end_of_run
except ModuleNotFoundError as error:
    raise WorkflowError(
        f"{error}. Snakemake has to run in an environment that has the packages of "
        "requirements/cpu.txt or requirements/cuda.txt: see docs/environments.md."
    ) from None

try:
    CONFIG = load_config(config)
    RUN = RunFiles(CONFIG)
    SETTINGS = JobParams(RUN)
    SCHEDULE = Schedule(RUN, one_job=not workflow.is_main_process)
except TesseraFlowError as error:
    raise WorkflowError(str(error)) from None

LOGS = CONFIG.paths.logs

workflow.register_resource("in_flight", EVERYTHING)  # see `admission`


wildcard_constraints:
    region="|".join(CONFIG.regions),
    period="|".join(CONFIG.periods),
    sensor="|".join(SENSORS),
    slice=r"[\d-]+_[\d-]+",
    block=ANY_BLOCK,


def temporary(kind, path):
    """Deleted when no job needs it any more, unless `paths.keep` names it."""
    return path if kind in CONFIG.paths.keep else temp(path)


# Not when a run is planned, nor when it only looks (rules/look.smk): one that writes is refused.
onstart:
    writes = any(job.output for job in workflow.dag.needrun_jobs())
    SCHEDULE.expect(workflow.dag.needrun_jobs())
    forced = workflow.dag_settings.forcetargets or workflow.dag_settings.forceall
    if not writes:
        # At its end Snakemake removes all locks of the folder, those of a run going on, too.
        workflow.persistence.unlock = lambda: None
    try:
        if writes:
            refuse_orphans(Path.cwd())
        if writes and not forced:
            refuse_other_settings(RUN)
    except TesseraFlowError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    drop_old_skip_lists(RUN)


onerror:
    print(end_of_run(RUN, sys.argv), file=sys.stderr)
