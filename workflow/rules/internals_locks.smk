# Parts of Snakemake that are not in its documentation: its locks. See internals.smk.

from contextlib import nullcontext


def keep_locks():
    """Do not remove the folder's locks at the end of this run: it removes those of other runs.

    Only for a run whose graph has no files, which has locked none.
    """
    if not any(job.input or job.output for job in workflow.dag.jobs):
        workflow.persistence.unlock = lambda: None


def explain_locks(message):
    """If the folder is locked, fail with the text that `message` returns, if it is not None; a dry
    run shows it as a warning."""
    prepare = workflow._prepare_dag

    def prepare_with_message(*arguments, **options):
        prepare(*arguments, **options)
        if options.get("nolock"):
            return
        only_warn = options.get("lock_warn_only")
        lock = workflow.persistence.lock

        def lock_with_message():
            text = message() if workflow.persistence.locked else None
            if text is not None and not only_warn:
                refuse(text)
            if text is None:
                return lock()
            show_warning(text)
            return nullcontext()

        workflow.persistence.lock = lock_with_message

    workflow._prepare_dag = prepare_with_message
