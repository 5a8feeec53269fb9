#!/usr/bin/perl
# Real Storable on a pipe: a line of JSON in, a line of JSON out, until the pipe is closed.
#
#   {"op": "thaw", "hex": …}                 -> {"value": …}   what thaw gives; a reference to a scalar is followed
#   {"op": "freeze", "how": …, "value": …}   -> {"hex": …}     how: freeze, nfreeze, store or nstore
#   {"op": "perl", "how": …, "code": …}      -> {"hex": …}     the same of a Perl expression
#   anything that dies                       -> {"died": message}
#
# Numbers of a value are told from strings as JSON::PP does. Booleans come back as JSON's where this Perl has any
# (5.36), else as "1" and "".
use strict;
use warnings;
use B ();
use File::Temp ();
use Hash::Util ();
use JSON::PP ();
use Scalar::Util ();
use Storable ();

$Storable::canonical = 1;    # the same bytes each time

$| = 1;
binmode STDIN;
binmode STDOUT;
my $json = JSON::PP->new->utf8->allow_nonref->canonical->max_depth(5000);
my $is_bool = $] >= 5.036 ? do { no warnings; eval 'sub { builtin::is_bool($_[0]) }' } : sub { 0 };

sub frozen {
    my ($how, $reference) = @_;
    return Storable::freeze($reference)  if $how eq 'freeze';
    return Storable::nfreeze($reference) if $how eq 'nfreeze';
    my $file = File::Temp->new;
    $how eq 'store' ? Storable::store($reference, "$file") : Storable::nstore($reference, "$file");
    open my $handle, '<:raw', "$file" or die $!;
    local $/;
    return scalar <$handle>;
}

# A copy that JSON::PP shows as it is: booleans as references to 1 or 0, objects as their data.
sub shown {
    my ($value) = @_;
    my $type = Scalar::Util::reftype($value);
    if (!defined $type) {
        return $is_bool->($value) ? ($value ? JSON::PP::true() : JSON::PP::false()) : $value;
    }
    return { map { $_ => shown($value->{$_}) } keys %$value } if $type eq 'HASH';
    return [ map { shown($_) } @$value ] if $type eq 'ARRAY';
    die "a $type inside\n";
}

sub answer {
    my ($ask) = @_;
    if ($ask->{op} eq 'thaw') {
        my $thawed = Storable::thaw(pack 'H*', $ask->{hex});
        die "thaw gave nothing\n" unless ref $thawed;
        my $type = Scalar::Util::reftype($thawed);
        return { value => shown($type eq 'HASH' || $type eq 'ARRAY' ? $thawed : $$thawed) };
    }
    if ($ask->{op} eq 'freeze') {
        my $value = $ask->{value};
        return { hex => unpack 'H*', frozen($ask->{how}, ref $value ? $value : \$value) };
    }
    my $reference = eval "no strict; no warnings; $ask->{code}";
    die $@ if $@;
    return { hex => unpack 'H*', frozen($ask->{how}, $reference) };
}

while (my $line = <STDIN>) {
    my $answer = eval { answer($json->decode($line)) } || { died => "$@" };
    print $json->encode($answer), "\n";
}
