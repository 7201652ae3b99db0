"""Poses of photos in a reconstruction: its model, cameras of queries, and the pose of a query."""
