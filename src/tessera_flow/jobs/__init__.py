"""Plan and run jobs: files, parameters, resources, schedule, job log, status, estimate."""
