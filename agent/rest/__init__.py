"""The node's HTTP API: Batch AI's own ARM API (2018-05-01), and ``/node`` beside it."""
