"""Training. To read: `step.py` is one step of it, `sitting.py` the loop around it, `loop.py` the run that is started and resumed.

A step       step, feed (its images), parallel (threads and micro-batches), ordered_sum (of their gradients), graph, noise,
             upload (all three for a GPU), randomness, order, optim
What for     tasks/ (what a network is trained to do: its batches, losses and tests), network (of a run's settings; which of its
             parameters are trained), top_k (of ImageNet's folders)
A run        loop, sitting, settings, splits (what is trained, chosen and tested on), evaluation, reporter, reading_report,
             stop, clock, errors
On disk      folder, lock, log, checkpoint (the file), state (what is in it), schema (its types), fingerprint, environment
A process    memory
"""
