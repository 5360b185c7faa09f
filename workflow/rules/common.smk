# Read and check the configuration; constrain wildcards; helpers of the rules.
# Needs: config; check_config_files and MISSING_PACKAGE of config_files.smk.
# Makes: CONFIG, FILES (files of blocks), PRODUCTS (product files), PARAMS (parameters that decide a
# job's result), SCHEDULE (priority, resources, CPU or GPU); SITES, SITE_PARAMS and SITE_SCHEDULE,
# the same for the table of sites; PUBLISHED (input of steps that fill holes)
# and STORE_WARNINGS (about the days and the model of a store of published embeddings).
import inspect

try:
    from tessera_flow.config.configuration import load_config
    from tessera_flow.config.yaml_file import check_config_values
    from tessera_flow.errors import TesseraFlowError
    from tessera_flow.jobs.files import RunFiles
    from tessera_flow.jobs.in_flight import ALL_OF_IT
    from tessera_flow.jobs.params import JobParams
    from tessera_flow.jobs.paths import ANY_BLOCK, ANY_CELL, SENSORS
    from tessera_flow.jobs.product_files import ProductFiles
    from tessera_flow.jobs.schedule import Schedule
    from tessera_flow.jobs.sites.files import SiteFiles, SiteParams, SiteSchedule
    from tessera_flow.jobs.state.preflight import check_labels, check_python
    from tessera_flow.jobs.store_model import store_model_warnings
except ModuleNotFoundError as error:
    refuse(MISSING_PACKAGE.format(error))

try:
    if not runs_one_job():
        check_python(sys.executable)
        check_config_files(config_files())
        check_config_values(config_values())
    CONFIG = load_config(config)
    FILES = RunFiles(CONFIG)
    PRODUCTS = ProductFiles(FILES)
    PARAMS = JobParams(FILES)
    if not runs_one_job():
        check_labels(CONFIG)
        STORE_WARNINGS = store_model_warnings(FILES, PARAMS)
    SCHEDULE = Schedule(FILES, one_job=runs_one_job(), cores=cores_here())
    SITES = SiteFiles(FILES)
    SITE_PARAMS = SiteParams(FILES, SITES, PARAMS)
    SITE_SCHEDULE = SiteSchedule(FILES, SITES, SCHEDULE)
except TesseraFlowError as error:
    refuse(error)
except ModuleNotFoundError as error:
    refuse(MISSING_PACKAGE.format(error))


# <work>, <results> and <logs> in the rules' paths.
pathvars:
    work=CONFIG.paths.work,
    results=CONFIG.paths.results,
    logs=CONFIG.paths.logs,


wildcard_constraints:
    region="|".join(CONFIG.regions),
    period="|".join(CONFIG.periods),
    sensor="|".join(SENSORS),
    slice=r"[\d-]+_[\d-]+",
    block=ANY_BLOCK,
    map=r"[\w-]+",


def needs(rule, **more):
    """Memory (MB) and run time (minutes) of a rule's jobs, which grow with each attempt, and
    further resources."""

    def runtime(wildcards, attempt, threads):
        return SCHEDULE.runtime(rule, attempt, threads)

    return {
        "mem_mb": lambda wildcards, attempt: SCHEDULE.memory_mb(rule, attempt),
        "runtime": runtime,
        **more,
    }


def of(function):
    """Call `function` with the wildcards that it has parameters for."""
    names = list(inspect.signature(function).parameters)
    return lambda wildcards: function(**{name: wildcards[name] for name in names})


def priority(stage):
    """Finish the blocks that are started before others are started."""
    return lambda wildcards: SCHEDULE.priority(stage, wildcards)


def temporary(kind, path):
    """Delete the file when no job needs it any more, unless `paths.keep` names its kind."""
    return path if kind in CONFIG.paths.keep else temp(path)


# With `geotessera.fill: compute`, scenes are read for the patches of a block that have a hole in
# its published embeddings. Empty otherwise.
PUBLISHED = (
    {"published": "<work>/{region}/{period}/published/{block}.zip"}
    if CONFIG.fills
    else {}
)


def before_fill(path, final):
    """Return the output of a last step of a block, or of a step before `fill`."""
    return temp(path) if CONFIG.fills else final


# Input of every product: the embeddings of all blocks (or the file that replaces a skipped
# block), <work>/{region}/{period}/embeddings/{block}.zip; for its provenance the lists of scenes,
# <work>/{region}/{period}/items/{sensor}.json, and the record of the weights, <work>/weights.json.
# What is to be said about tile folders is in the blocks.
BLOCKS = {"blocks": of(FILES.block_files)}
PROVENANCE = {
    "manifests": of(FILES.manifests),
    "tile_blocks": of(FILES.tile_blocks),
    "weights": FILES.weights_record(),
}

# Products go before blocks, so that a region is complete early; weights go before everything, so
# that weights that cannot be used fail before scenes are read.
PRODUCT_PRIORITY = 1000000
WEIGHTS_PRIORITY = 2000000

# Blocks in progress: see tessera_flow/jobs/in_flight.py.
add_resource("in_flight", ALL_OF_IT)
if callable(SCHEDULE.claim):
    ask_again("in_flight", ALL_OF_IT, SCHEDULE.claim)
# Jobs that change the cube of a region: one at a time.
add_resource("cube", 1)

# The process of a job, which counts other blocks, must use the threads that were planned for it.
if cores_here() is not None:
    set_threads("infer_cpu", SCHEDULE.threads("infer_cpu"))
