"""What each training script does unless told otherwise: plain dicts, a file a script.

A flag given by hand overrides its recipe; what a student's report does not say of itself is listed as
`assumed`.
"""
