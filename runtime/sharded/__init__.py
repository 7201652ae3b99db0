"""An index on many machines, searched through Ray. Extra: ``ray``.

``retriever.ShardedRetriever(engine, index)`` is a ``Retriever`` of such an index; ``howl index --ray`` fills it.
"""
