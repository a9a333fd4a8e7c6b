"""Bulk runs: what pegasus-aws-batch does with a job file, from its tasks to their merged logs.

`jobfile` reads tasks, `plan` decides what is submitted for them, `tasklist` and run_task.sh carry a task into its container,
`run` follows a run from step to step, `state` remembers it, `logs` and `report` write what Pegasus reads.
"""
