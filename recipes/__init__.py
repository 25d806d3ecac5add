"""What each training script does unless told otherwise: plain dicts, a file a script.

A flag given by hand overrides its recipe; what a student's report does not say of itself is listed as
`assumed`.
"""

# How the weights are moved, where a script's recipe says nothing else.
STEPPING = {
    "optimizer": "adamw",
    "nesterov": True,
    "decay_all": False,  # biases and norms are not pulled to zero
    "schedule": "cosine",
    "last_rate": 0.0,  # share of the rate with which a cosine ends
    "milestones": None,  # at which the schedule "step" falls
    "precision": "auto",
}
# The reports' commonest choice, and how our optimisers differ from most of theirs.
ADAM = {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
NORMS = "no decay of biases and norms"
