"""What `textgym new` writes: plug-ins that run, to be changed. They are plain modules of ours."""
