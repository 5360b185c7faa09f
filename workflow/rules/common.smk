# Reads and checks the configuration, asks the domain package for the blocks, and says what
# wildcards may be.
# Needs: config.
# Makes: CONFIG, RUN (which files each job reads and makes), SETTINGS (what decides its result),
# SCHEDULE (when, where and with how much it runs).
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# A clone works without installing the package.
sys.path.insert(0, str(Path(str(workflow.current_basedir)).parents[1] / "src"))

from tessera_flow.admission import EVERYTHING
from tessera_flow.config import load_config
from tessera_flow.errors import TesseraFlowError
from tessera_flow.job_settings import JobSettings
from tessera_flow.layout import Layout
from tessera_flow.paths import ANY_BLOCK, SENSORS
from tessera_flow.queue import refuse_orphans
from tessera_flow.replacing import refuse_replacing
from tessera_flow.scheduling import Schedule
from tessera_flow.summary import end_of_run

try:
    CONFIG = load_config(config)
    RUN = Layout(CONFIG)
    SETTINGS = JobSettings(RUN)
    SCHEDULE = Schedule(RUN, one_job=not workflow.is_main_process)
except TesseraFlowError as error:
    raise WorkflowError(str(error)) from None

LOGS = CONFIG.paths.logs

workflow.localrules(*CONFIG.jobs.at_home)
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
    try:
        if writes:
            refuse_orphans(Path.cwd())
        if writes and not forced:
            refuse_replacing(RUN)
    except TesseraFlowError as error:
        raise WorkflowError(str(error)) from None


onerror:
    print(end_of_run(RUN, sys.argv), file=sys.stderr)
