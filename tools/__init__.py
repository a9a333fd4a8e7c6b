"""Makes what is committed with the code it comes from: docs/messages.md, the manual pages, completion (`make docs`)."""
