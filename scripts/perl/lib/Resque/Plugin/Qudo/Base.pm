package Resque::Plugin::Qudo::Base;

# Qudo::Worker for machines without Qudo: `use base 'Qudo::Worker'` finds the defaults of Qudo's worker classes here.
# Where Qudo is installed its own is used; both decide by the same rules.

use strict;
use warnings;

if (!eval { require Qudo::Worker; 1 }) {
    die $@ if $@ !~ m{\ACan't locate Qudo/Worker\.pm};
    $INC{'Qudo/Worker.pm'} = __FILE__;

    no strict 'refs';
    *{'Qudo::Worker::max_retries'}    = sub { 0 };
    *{'Qudo::Worker::retry_delay'}    = sub { 0 };       # seconds; called with the job
    *{'Qudo::Worker::grab_for'}       = sub { 3600 };    # seconds
    *{'Qudo::Worker::set_job_status'} = sub { 0 };
    *{'Qudo::Worker::work_safely'}    = \&_work_safely;
}

# An abort is final whatever else happened; else what died or did not say `completed` has failed.
sub _work_safely {
    my ($class, $job) = @_;
    my $result;
    my $lived = eval { $result = $class->work($job); 1 };
    my $error = $lived ? '' : "$@" || 'died';
    if (!$job->is_aborted && (!$lived || !$job->is_completed)) {
        if ($job->retry_cnt < $class->max_retries) {
            $job->reenqueue({ retry_cnt => $job->retry_cnt + 1, retry_delay => $class->retry_delay($job) });
        }
        else {
            $job->dequeue;
        }
        $job->failed($error || 'Job did not explicitly complete or fail');
        return $result;
    }
    $job->dequeue;
    return $result;
}

1;
