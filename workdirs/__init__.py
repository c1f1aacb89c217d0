"""The folder of a run and the records in it: config, classes, metrics, DONE; whose it is.

Not here: checkpoints (saving/checkpoints.py), what reports and services make of the records.

config.json    resolved config, git commit, versions, devices
classes.txt    names of the classes, in the order of the labels, where they are known
bad_images.jsonl  images that could not be read, if any
checkpoints/   see saving/checkpoints.py and, of the files in one, step_files.py
saved.json     the newest step that was saved, see progress.py
metrics.jsonl  every logged metric, one JSON object per line
tensorboard/   the same as TensorBoard events
curves.png     the same as a picture
parameters.txt  name, shape and size of each parameter
log_to.json    what has been sent to the services of --log_to
checksums/     SHA-256 of the small files above, see records.py
restarting.txt  while --restart moves these, see restart.py
DONE           final metrics, the best and its epoch; exists once the run is finished
DONE_before_extension  the last one, while --extend goes on, see results.py
"""
