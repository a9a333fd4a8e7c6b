"""What all tests need of the process that they run in."""

import signal

# A shell that runs `make test` in the background has everything below it ignore SIGINT, which tests send to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
