"""``levit serve``: the records of ``levit predict`` over HTTP. docs/serving.md describes the routes and limits.

``connection`` speaks HTTP/1.1, ``app`` checks and routes requests, ``scheduler`` decodes images and forms batches,
``model`` runs the network.
"""
