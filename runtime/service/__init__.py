"""Retrieval over HTTP: the server's application, the page that it serves, and the client. Extra: ``serve``.

``app.create_app(retriever, options)`` is the whole of the server; ``client.RemoteRetriever(url)`` speaks to it.
"""
