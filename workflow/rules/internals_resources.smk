# Resources, threads and limits of jobs in parts of Snakemake that are not in its documentation; see
# internals.smk.
from snakemake.resources import Resource


def add_resource(name, total):
    """Limit a resource, as `--resources name=total` does."""
    workflow.register_resource(name, total)


def ask_again(name, waiting, claim):
    """Ask a job that is ready for a resource again when another job has ended. Snakemake keeps the
    first answer.

    Args:
        name: the resource.
        waiting: what a job that has to wait claims; only such jobs are asked.
        claim: function of the wildcards of a job that returns what it claims now.
    """
    prepare = workflow._prepare_dag

    def prepare_with_questions(*arguments, **options):
        prepare(*arguments, **options)
        finish = workflow.dag.finish

        async def finish_and_ask(job, **options):
            await finish(job, **options)
            for ready in workflow.dag.ready_jobs:
                if (
                    ready.is_group()
                    or (ready._scheduler_resources or {}).get(name) != waiting
                ):
                    continue
                if claim(ready.wildcards) != waiting:
                    ready._resources = ready._scheduler_resources = None

        workflow.dag.finish = finish_and_ask

    workflow._prepare_dag = prepare_with_questions


def cores_here():
    """Return the cores of this machine that a run may use; None on a cluster and in the process
    of a job."""
    settings = workflow.resource_settings
    return None if runs_one_job() or settings.nodes is not None else settings.cores


def array_jobs():
    """Return the rules whose jobs the Slurm executor submits as arrays; None without."""
    return getattr(workflow.executor_settings, "array_jobs", None)


def set_threads(name, number):
    """Set the threads of a rule as --set-threads does, also for the processes of its jobs, unless
    the user sets them."""
    threads = workflow.resource_settings._parsed_overwrite_threads
    threads.setdefault(name, Resource("_cores", number))


def limit_on_this_machine(limits):
    """Limit resources that the user does not limit, unless jobs run on a cluster."""
    if workflow.resource_settings.nodes is None:
        for name, total in limits.items():
            if name not in workflow.global_resources:
                add_resource(name, total)


def limits_of_run():
    """Return what limits the jobs of this run: arguments of tessera_flow.jobs.plan.limits.of_snakemake."""
    settings = workflow.resource_settings
    rate = workflow.scheduling_settings.max_jobs_per_timespan
    resources = workflow.global_resources.expand_items(
        constraints={}, evaluate=None, expand_sized=False
    )
    return {
        "cores": settings.cores,
        "jobs": settings.nodes,
        "resources": {
            name: value
            for name, value in resources
            if isinstance(value, int) and name in ("mem_mb", "downloads", "gpu")
        },
        "starts": None if rate is None else (rate.max_jobs, rate.timespan),
    }
