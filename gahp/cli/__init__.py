"""`condor_awsbatch`, the program for people: one module a verb, each with SUMMARY, add_arguments(parser) and run(options)."""
