"""The benchmark: our mount, its peers and its limits, side by side on this machine.

How the parts hang together::

    cli ── suites/* ── trials ── contenders, limits  ours, rclone, --peer; null driver, bare client
     │        │          └── readers, usage        programs that read; what it cost
     │        └── workbench ── servers/*, data     started and made when a row first needs them
     ├── rounds                                    A B C A B C …
     └── rows, report                              medians, targets; table and JSON

To add a suite, write ``suites/NAME.py`` with a function ``experiments() -> list[Experiment]`` and
name the module in :data:`bench.suites.SUITES`. An :class:`bench.experiments.Experiment` has

* a title, and the service that it talks to (``static``, ``static+tls``, ``static+20ms``,
  ``azurite``, ``azurite+5ms``: :meth:`bench.workbench.Workbench.service`),
* ``prepare(workbench)``: a context manager that makes the data and gives the trials: one
  :class:`bench.experiments.Trial` for ours, for each peer and for each limit. A trial is a function
  that measures once, from cold to clean, and returns a :class:`bench.experiments.Sample` with any
  number of named metrics. ``bench.trials`` has what most of them share,
* figures: each makes one row of one metric, with the targets for it. A row of peak memory is added
  by itself.

A trial raises :class:`bench.errors.BenchError` when something fails or bytes are wrong.
"""
