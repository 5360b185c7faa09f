# Read and check the configuration; constrain wildcards; helpers of the rules.
# Needs: config; check_config_files and MISSING_PACKAGE of config_files.smk.
# Makes: CONFIG, FILES (files of blocks), PRODUCTS (product files), PARAMS (parameters that decide a
# job's result), SCHEDULE (priority, resources, CPU or GPU).
import inspect

try:
    from tessera_flow.config.configuration import load_config
    from tessera_flow.config.unused import unused_settings
    from tessera_flow.config.yaml_file import check_config_values
    from tessera_flow.errors import TesseraFlowError
    from tessera_flow.jobs.check_results import check_lines
    from tessera_flow.jobs.damage import faulty_products
    from tessera_flow.jobs.files import RunFiles
    from tessera_flow.jobs.in_flight import ALL_OF_IT
    from tessera_flow.jobs.machine import default_limits
    from tessera_flow.jobs.params import JobParams
    from tessera_flow.jobs.paths import ANY_BLOCK, SENSORS
    from tessera_flow.jobs.preflight import (
        check_python,
        check_run,
        lock_work,
        locked_message,
        remove_old_skip_lists,
    )
    from tessera_flow.jobs.product_files import ProductFiles
    from tessera_flow.jobs.scene_warnings import scene_warnings
    from tessera_flow.jobs.schedule import Schedule
    from tessera_flow.jobs.status import end_of_run
    from tessera_flow.jobs.work_lock import WorkLock
    from tessera_flow.region.blocks import region_warnings
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
    SCHEDULE = Schedule(FILES, one_job=runs_one_job())
    LOCK = WorkLock(CONFIG.paths.work)
except TesseraFlowError as error:
    refuse(error)
except ModuleNotFoundError as error:
    refuse(MISSING_PACKAGE.format(error))


# Warnings about the scenes or tile folders: those known now, and at the end of a run those of its
# new lists and blocks.
SHOWN = set()


def show_scene_warnings(of_blocks=False):
    for text in scene_warnings(FILES, of_blocks=of_blocks):
        if text not in SHOWN:
            SHOWN.add(text)
            show_warning(text)


if not runs_one_job():
    for text in [*unused_settings(CONFIG), *region_warnings(CONFIG)]:
        show_warning(text)
    show_scene_warnings()
    for text in SCHEDULE.time_warnings():
        show_warning(text)
    FAULTY = faulty_products(FILES, PARAMS)
    for text in FAULTY.warnings():
        show_warning(text)
    make_again(FAULTY.paths)
    explain_locks(lambda: locked_message(LOCK, Path.cwd(), sys.argv))


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

# `--cores N` alone must not start more than fits the memory of the machine.
if not runs_one_job():
    limit_on_this_machine(default_limits())


# Files that this run writes.
WRITTEN = set()


# Not called for a dry run. A run that writes nothing (rules/look.smk) is never refused.
onstart:
    jobs = jobs_to_run()
    WRITTEN.update(str(path) for job in jobs for path in job.output)
    if any(job.output for job in jobs):
        SCHEDULE.expect(jobs)
        try:
            if taken := lock_work(LOCK, Path.cwd()):
                show_warning(taken)
            check_run(FILES, Path.cwd(), replace=forced())
        except TesseraFlowError as error:
            LOCK.release()
            refuse(error)
    else:
        keep_locks()


onsuccess:
    LOCK.release()
    show_scene_warnings(of_blocks=True)
    for line in check_lines(FILES, WRITTEN):
        print(line, file=sys.stderr)
    remove_old_skip_lists(FILES)


onerror:
    LOCK.release()
    show_scene_warnings(of_blocks=True)
    print(end_of_run(FILES, sys.argv), file=sys.stderr)
