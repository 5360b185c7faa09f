# What is checked and said before the first job of a run and after its last one.
# Needs: CONFIG, FILES, PARAMS and SCHEDULE of common.smk.
# Makes: LOCK (of paths.work).
try:
    from tessera_flow.config.unused import unused_settings
    from tessera_flow.errors import OutputError
    from tessera_flow.jobs.running.ahead import list_waiting
    from tessera_flow.jobs.running.machine import default_limits
    from tessera_flow.jobs.running.shared_folders import (
        check_snakemake_folder,
        umask_warning,
    )
    from tessera_flow.jobs.running.work_lock import WorkLock
    from tessera_flow.jobs.scene_warnings import scene_warnings
    from tessera_flow.jobs.state.check_results import check_lines
    from tessera_flow.jobs.state.damage import faulty_products
    from tessera_flow.jobs.state.outdated import (
        outdated_files,
        outdated_text,
        refuse_to_replace,
    )
    from tessera_flow.jobs.state.preflight import (
        check_run,
        lock_work,
        locked_message,
        remove_leftovers,
        remove_old_skip_lists,
        submit_from,
    )
    from tessera_flow.jobs.state.status import end_of_run
    from tessera_flow.region.blocks import region_warnings
except ModuleNotFoundError as error:
    refuse(MISSING_PACKAGE.format(error))

if not runs_one_job():
    try:
        check_snakemake_folder(Path.cwd())
    except TesseraFlowError as error:
        refuse(error)

LOCK = WorkLock(CONFIG.paths.work)

# Warnings about the scenes or tile folders: those known now, and at the end of a run those of its
# new lists and blocks.
SHOWN = set()


def show_scene_warnings(of_blocks=False):
    for text in scene_warnings(FILES, of_blocks=of_blocks):
        if text not in SHOWN:
            SHOWN.add(text)
            show_warning(text)


# Targets of rules/look.smk that write nothing.
LOOKS = {"plan", "status"}


def files_to_make_again(recorded):
    """Damaged products, and files of other settings that Snakemake does not recognise."""
    if writes_nothing(LOOKS):
        return []
    try:
        outdated = outdated_files(FILES, PARAMS, recorded)
        refuse_to_replace(FILES, Path.cwd(), outdated)
    except OutputError as error:
        if not is_dry_run():
            refuse(error)
        show_warning(error)
    except TesseraFlowError as error:
        refuse(error)
    for text in outdated_text(outdated, "made again"):
        show_warning(text)
    return [*FAULTY.paths, *outdated]


if not runs_one_job():
    for text in [
        *unused_settings(CONFIG),
        *region_warnings(CONFIG),
        *STORE_WARNINGS,
    ]:
        show_warning(text)
    show_scene_warnings()
    for text in SCHEDULE.time_warnings():
        show_warning(text)
    FAULTY = faulty_products(FILES, PARAMS)
    for text in FAULTY.warnings():
        show_warning(text)
    make_again(files_to_make_again)
    explain_locks(lambda: locked_message(LOCK, Path.cwd(), sys.argv))


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
            list_waiting(CONFIG.paths.work, FILES.paths.embeddings, jobs)
            if text := umask_warning(Path(CONFIG.paths.work)):
                show_warning(text)
            if cores_here() is None:  # on a cluster
                submit_from(Path.cwd(), array_jobs())
        except TesseraFlowError as error:
            LOCK.release()
            refuse(error)
    else:
        keep_locks()


onsuccess:
    if WRITTEN:  # not beside the jobs of another run: `status` and `plan` only look
        remove_leftovers(FILES)
    LOCK.release()
    show_scene_warnings(of_blocks=True)
    for line in check_lines(FILES, WRITTEN):
        print(line, file=sys.stderr)
    remove_old_skip_lists(FILES)


onerror:
    LOCK.release()
    show_scene_warnings(of_blocks=True)
    print(end_of_run(FILES, sys.argv), file=sys.stderr)
