package Worker::Chains;
use strict;
use warnings;
use Shop;

# No parent at all; and two jobs in its place, one of them later.
sub work {
    my ($class, $job) = @_;
    $job->manager->enqueue('Worker::Plain', { arg => 'enqueued' });
    $job->replace(['Worker::Plain', { arg => 'replaced' }], ['Worker::Plain', { arg => 'later', run_after => 3600 }]);
}

1;
