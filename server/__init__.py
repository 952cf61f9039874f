"""The service: REST, events, the page, tables, artifacts, the command line, and the wiring of ports."""
