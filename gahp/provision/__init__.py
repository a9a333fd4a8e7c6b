"""The one-time set-up: makes, changes, checks and removes what AWS Batch needs before jobs can run.

For other parts: `settings.load` gives Settings, `aws.Clients` the clients; `create.create(settings, clients, report)` gives
Created, and `delete.delete(settings, clients, report)` takes it all away. A Report (aws.Report) is told how they get on. All of
them raise Refused and Transient with a sentence. Nothing is imported here: only a command that calls AWS has to wait for boto3.
"""
