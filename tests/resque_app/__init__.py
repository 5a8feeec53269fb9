"""The shop's new side: what Resque's workers and schedulers see in Redis, read without any code of ours."""

from tests.resque_app.comparing import unlike
from tests.resque_app.reading import Resque, ResqueJob, whole_redis
from tests.resque_app.worker import ResqueWorker

__all__ = ["Resque", "ResqueJob", "ResqueWorker", "unlike", "whole_redis"]
